"""`mmdpo app`: data and runs in a browser, on this machine. The only room that imports Gradio.

Each `*_page.py` has a TITLE, `is_wanted(sources)`, and `build(sources)`, which is called inside the page's own tab and
may return what begins in the background once all tabs are there.
Plain functions work out what a page shows; its HTML comes from `templates/`, which escape every text.
"""
