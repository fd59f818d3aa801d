// A key does what clicking the visible element with the class `key-KEY` does: `key-j`, `key-ArrowLeft`.
// Keys that are typed into a field are the field's own. A button with the class `once` is left after a click, so that
// the space bar, which scrolls, does not press it again.
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
  const field = event.target.closest("input, textarea, select, [contenteditable], [role=listbox], [role=slider]");
  if (field && !["checkbox", "radio", "button"].includes(field.type)) {
    if (event.key === "Escape") field.blur();
    return;
  }
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const found = [...document.getElementsByClassName(`key-${key}`)].find((each) => each.offsetParent !== null);
  if (!found || found.disabled) return;
  if (event.repeat && found.classList.contains("once")) return event.preventDefault();  // a key that is held down
  event.preventDefault();
  const inner = found.matches("button, a, [tabindex]") ? found : found.querySelector("input, textarea, button");
  if (inner && inner.matches("input, textarea")) inner.focus();
  else (inner || found).click();
});
document.addEventListener("click", (event) => event.target.closest(".once")?.blur());
