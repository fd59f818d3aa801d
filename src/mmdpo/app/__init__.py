"""`mmdpo app`: data and runs in a browser, on this machine. The only room that imports Gradio.

Each `*_page.py` has a TITLE, `is_wanted(sources)`, and `build(sources)`, which is called inside the page's own tab.
Plain functions work out what a page shows; its HTML comes from `templates/`, which escape every text.
"""
