// The page's own small vocabulary for making and finding elements.

export const $ = (id) => document.getElementById(id);

/**
 * An element with attributes and children. Text is never read as HTML.
 * @param attributes true stands for an attribute without a value; undefined and false for none
 */
export function element(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes))
    if (value !== undefined && value !== false) node.setAttribute(key, value === true ? '' : value);
  node.append(...children.filter((child) => child !== undefined && child !== ''));
  return node;
}

/** One of icons.svg. It says nothing: what it stands for is told in words beside it. */
export function icon(name) {
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  svg.setAttribute('class', 'icon');
  svg.setAttribute('aria-hidden', 'true');
  const use = document.createElementNS('http://www.w3.org/2000/svg', 'use');
  use.setAttribute('href', `/page/icons.svg#${name}`);
  svg.append(use);
  return svg;
}

/** A button with an icon and words; `attributes` may hold the class. */
export function button(words, iconName, onClick, attributes = {}) {
  const node = element('button', { type: 'button', ...attributes }, icon(iconName), words);
  node.addEventListener('click', onClick);
  return node;
}

/** Tells it to those who listen to the page. */
export function say(text) {
  $('said').textContent = text;
}

/** Whether whoever looks on wants little to move. */
export const wantsStillness = () => matchMedia('(prefers-reduced-motion: reduce)').matches;
