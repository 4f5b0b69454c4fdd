// Elements of the page.

const SHAPES = new Set(["svg", "g", "rect", "text", "use", "path", "polyline", "line"]);

/** An element with attributes and children; texts are texts, never HTML. */
export function element(name, attributes = {}, ...children) {
  const made = SHAPES.has(name)
    ? document.createElementNS("http://www.w3.org/2000/svg", name)
    : document.createElement(name);
  for (const [key, value] of Object.entries(attributes))
    if (value != null && value !== false) made.setAttribute(key, value === true ? "" : value);
  made.append(...children);
  return made;
}

export const sign = (name) =>
  element("svg", { class: `sign ${name}`, "aria-hidden": "true" }, element("use", { href: `#sign-${name}` }));
