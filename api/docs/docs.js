// @ts-check
// The documentation's pages: buttons that copy code, and the reader's place in the two navigations.

for (const figure of document.querySelectorAll('.code')) {
  const button = document.createElement('button');
  Object.assign(button, { type: 'button', className: 'copy', textContent: 'Copy' });
  button.addEventListener('click', async () => {
    await navigator.clipboard.writeText(figure.querySelector('code')?.textContent ?? '');
    button.textContent = 'Copied';
    setTimeout(() => (button.textContent = 'Copy'), 2000);
  });
  if (navigator.clipboard) figure.append(button); // only over https and on this machine
}

const pages = /** @type {HTMLElement} */ (document.querySelector('.pages'));
const current = /** @type {HTMLElement} */ (pages.querySelector('[aria-current]'));
const menu = /** @type {HTMLDetailsElement} */ (pages.querySelector('details'));
const isWide = matchMedia('(min-width: 60rem)'); // as in docs.css
const fold = () => (menu.open = isWide.matches);
isWide.addEventListener('change', fold);
fold();
pages.scrollTop = current.offsetTop - pages.clientHeight / 2;

/** Marks the heading that is being read in “On this page”. */
const links = /** @type {NodeListOf<HTMLAnchorElement>} */ (document.querySelectorAll('.contents a'));
const headings = [...links].map((link) => document.getElementById(decodeURIComponent(link.hash.slice(1))));
function markHeading() {
  const at = headings.findLastIndex((heading) => heading && heading.getBoundingClientRect().top < 120);
  for (const [i, link] of links.entries())
    if (i === at) link.setAttribute('aria-current', 'location');
    else link.removeAttribute('aria-current');
}
if (links.length > 0) {
  addEventListener('scroll', markHeading, { passive: true });
  markHeading();
}
