// @ts-check
// Finding and creating elements.

/**
 * The elements of index.html that are more than an HTMLElement, by id.
 * @typedef {object} Elements
 * @property {HTMLFormElement} form
 * @property {HTMLFormElement} key-form
 * @property {HTMLInputElement} key
 * @property {HTMLTextAreaElement} prompt
 * @property {HTMLInputElement} image
 * @property {HTMLInputElement} image_url
 * @property {HTMLImageElement} preview
 * @property {HTMLButtonElement} make
 * @property {HTMLButtonElement} more
 * @property {HTMLSelectElement} filter
 * @property {HTMLDialogElement} confirm
 */

/**
 * @template {string} I
 * @param {I} id one of index.html's
 * @returns {I extends keyof Elements ? Elements[I] : HTMLElement}
 */
export const $ = (id) => /** @type {any} */ (document.getElementById(id));

/**
 * Creates an element. Text is never parsed as HTML.
 * @template {keyof HTMLElementTagNameMap} T
 * @param {T} tag
 * @param {Record<string, string | number | boolean | undefined>} [attributes] true: without a value; undefined, false: absent
 * @param {...(Node | string)} children
 * @returns {HTMLElementTagNameMap[T]}
 */
export function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes))
    if (value !== undefined && value !== false) node.setAttribute(name, value === true ? '' : String(value));
  node.append(...children);
  return node;
}

/** An icon of icons.svg. Screen readers skip it: a label stands next to it. @param {string} name */
export function icon(name) {
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  svg.setAttribute('class', 'icon');
  svg.setAttribute('aria-hidden', 'true');
  const use = document.createElementNS('http://www.w3.org/2000/svg', 'use');
  use.setAttribute('href', `/page/icons.svg#${name}`);
  svg.append(use);
  return svg;
}

/**
 * A button with an icon and a label.
 * @param {string} label
 * @param {string} iconName
 * @param {() => void} onClick
 * @param {Record<string, string>} [attributes]
 */
export function button(label, iconName, onClick, attributes = {}) {
  const node = element('button', { type: 'button', ...attributes }, icon(iconName), label);
  node.addEventListener('click', onClick);
  return node;
}

/**
 * Shows a note under an input; '' removes it.
 * @param {{ place: HTMLElement, input: HTMLElement }} field
 * @param {string} text
 * @param {boolean} isProblem false: only a warning
 */
export function showNote({ place, input }, text, isProblem) {
  place.textContent = text;
  place.classList.toggle('caution', !isProblem);
  if (!isProblem || !text) return input.removeAttribute('aria-invalid');
  input.setAttribute('aria-invalid', 'true');
  const details = input.closest('details');
  if (details) details.open = true;
}

/** Copies a text. @param {string} text @returns whether the browser did it */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // pages loaded by plain http have no clipboard
    const area = element('textarea', { class: 'unseen', 'aria-hidden': 'true' });
    area.value = text;
    document.body.append(area);
    area.select();
    const isCopied = document.execCommand('copy');
    area.remove();
    return isCopied;
  }
}

/** Announces a text to screen readers. @param {string} text */
export function announce(text) {
  $('announcement').textContent = text;
}

/** Whether the user prefers little motion. */
export const prefersReducedMotion = () => matchMedia('(prefers-reduced-motion: reduce)').matches;

/** @returns {ScrollBehavior} */
export const scrollBehavior = () => (prefersReducedMotion() ? 'auto' : 'smooth');
