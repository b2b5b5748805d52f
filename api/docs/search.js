// @ts-check
// The search over all pages: their sections that contain every word, best first.

/** @typedef {{ page: string, heading: string, url: string, text: string }} Section */

const MOST = 12; // results
const search = /** @type {HTMLElement} */ (document.querySelector('search'));
const input = /** @type {HTMLInputElement} */ (document.querySelector('#search'));
const found = /** @type {HTMLElement} */ (document.querySelector('#found'));
const status = /** @type {HTMLElement} */ (found.querySelector('[role="status"]'));
const list = /** @type {HTMLElement} */ (found.querySelector('ol'));
search.hidden = false;

/** @type {Promise<Section[]> | undefined} */
let index;
const load = () =>
  (index ??= fetch('/docs/search.json')
    .then((response) => response.json())
    .catch(() => {
      index = undefined; // the next letter tries again
      return [];
    }));

input.addEventListener('focus', load);
input.addEventListener('input', show);
addEventListener('keydown', (event) => {
  const isTyping = event.target instanceof HTMLElement && event.target.closest('input, textarea, select');
  if (event.key === '/' && !isTyping && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    input.focus();
  }
});
search.addEventListener('keydown', (event) => {
  const stops = [input, ...list.querySelectorAll('a')];
  const at = stops.indexOf(/** @type {HTMLInputElement} */ (document.activeElement));
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (event.key === 'Escape') {
    found.hidden = true;
    input.focus();
  } else if (event.key === 'Enter' && document.activeElement === input) stops[1]?.click();
  else if (step && !found.hidden) {
    event.preventDefault();
    stops[at + step]?.focus();
  }
});
search.addEventListener('focusout', ({ relatedTarget }) => {
  if (!(relatedTarget instanceof Node && search.contains(relatedTarget))) found.hidden = true;
});
found.addEventListener('mousedown', (event) => event.preventDefault()); // keeps the focus, so that the click arrives
found.addEventListener('click', (event) => {
  if (event.target instanceof Element && event.target.closest('a')) found.hidden = true;
});
input.addEventListener('focus', () => {
  if (input.value.trim()) show();
});

async function show() {
  const sections = await load();
  const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
  const results = words.length > 0 ? find(sections, words) : [];
  found.hidden = words.length === 0;
  status.textContent =
    results.length === 0 ? 'Nothing found' : results.length === 1 ? '1 result' : `${results.length} results`;
  if (results.length > MOST) status.textContent = `The best ${MOST} of ${results.length} results`;
  list.replaceChildren(...results.slice(0, MOST).map((section) => item(section, words)));
}

/**
 * @param {Section[]} sections
 * @param {string[]} words
 */
function find(sections, words) {
  /** @param {Section} section */
  const score = ({ page, heading, text }) => {
    const [inPage, inHeading, inText] = [page, heading, text].map((part) => part.toLowerCase());
    let sum = 0;
    for (const word of words) {
      const points =
        (inHeading?.includes(word) ? 10 : 0) +
        (inPage?.includes(word) ? (heading === '' ? 18 : 6) : 0) +
        (inText?.includes(word) ? 1 : 0);
      if (points === 0) return 0;
      sum += points;
    }
    return sum;
  };
  return sections
    .map((section) => ({ section, points: score(section) }))
    .filter(({ points }) => points > 0)
    .sort((a, b) => b.points - a.points)
    .map(({ section }) => section);
}

/**
 * @param {Section} section
 * @param {string[]} words
 */
function item({ page, heading, url, text }, words) {
  const [title, excerpt] = [document.createElement('strong'), document.createElement('span')];
  title.append(...marked(heading ? `${page} › ${heading}` : page, words));
  const lower = text.toLowerCase();
  const at = Math.max(0, Math.min(...words.map((word) => lower.indexOf(word)).filter((place) => place >= 0)) - 40);
  const from = Number.isFinite(at) && at > 0 ? text.indexOf(' ', at) + 1 : 0;
  excerpt.append(...marked(`${from > 0 ? '… ' : ''}${text.slice(from, from + 130).replace(/\s\S*$/, '')} …`, words));
  const link = document.createElement('a');
  link.href = url;
  link.append(title, excerpt);
  const item = document.createElement('li');
  item.append(link);
  return item;
}

/**
 * @param {string} text
 * @param {string[]} words
 * @returns {(string | HTMLElement)[]} the text with its words marked
 */
function marked(text, words) {
  const pattern = new RegExp(`(${words.map((word) => word.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')).join('|')})`, 'gi');
  return text.split(pattern).map((part, i) => {
    if (i % 2 === 0) return part;
    const mark = document.createElement('mark');
    mark.textContent = part;
    return mark;
  });
}
