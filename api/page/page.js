// The page at /: asks for an API key where one is wanted, and puts the form and the list together.
import { askJson, hasKey, inWords, news, storeKey, useKey } from './api.js';
import { $, element, icon } from './dom.js';
import { createForm } from './form.js';
import { aboutModel, money } from './labels.js';
import { createTasks } from './tasks.js';

const EXAMPLES = [
  { file: 'example-coffee.webp', name: 'A cup of coffee' },
  { file: 'example-cat.webp', name: 'A cat' },
];

/** The API's own document. It comes with the page, so where the API is away it is waited for. */
async function apiDocument() {
  for (;;) {
    try {
      return await askJson('/openapi.json');
    } catch {
      await new Promise((resolve) => news.addEventListener('back', resolve, { once: true }));
    }
  }
}

news.addEventListener('away', ({ detail }) => {
  $('outage').textContent = `${detail} Trying again; what was begun goes on.`;
});
news.addEventListener('back', () => {
  $('outage').textContent = '';
});
news.addEventListener('key', ({ detail }) => askForKey(detail));

const { info, components } = await apiDocument();
const { properties: parameters } = components.schemas.Request;
const form = createForm(parameters, {
  onTask: (made) => tasks.made(made),
});
// Where the budget can’t be read it stays as it was: an API that is away has been told of.
const tasks = createTasks(parameters, { form, onEnd: () => showUse().catch(() => undefined) });

$('model').textContent = aboutModel(info['x-model']);
const bridge = parameters.prompt['x-bridge'];
if (bridge === 'placeholder')
  $('prompt-help').textContent = 'No Midjourney bridge is set up here: the picture of a prompt is a drawn placeholder.';
if (bridge === 'none') {
  form.source.refusePrompts();
  $('sources').append(
    element(
      'p',
      { class: 'help' },
      'Prompts need a Midjourney bridge, and this service has none. Begin with a picture.',
    ),
  );
}
buildEmpty();
news.addEventListener('back', () => $('key-part').hidden && load());
$('key-form').addEventListener('submit', tryKey);
$('forget').addEventListener('click', forgetKey);
await load();

/** What stands where clips will be. */
function buildEmpty() {
  const examples = EXAMPLES.map(({ file, name }) => {
    const button = element('button', { type: 'button' }, element('img', { src: `/page/${file}`, alt: '' }), name);
    button.addEventListener('click', async () => {
      const picture = await fetch(`/page/${file}`).then((answer) => answer.blob());
      form.source.useFile(new File([picture], file, { type: picture.type }));
      $('make').focus();
    });
    return button;
  });
  $('empty').append(
    element(
      'div',
      { class: 'first' },
      icon('film'),
      element('h3', {}, 'Your first clip is a minute away'),
      element('p', {}, 'Write a prompt, or drop a picture anywhere on this page. Or try one of these:'),
      element('div', { class: 'examples' }, ...examples),
    ),
    element('p', { class: 'none' }, 'There are no such clips.'),
  );
}

/** Shows what has been made, and goes on following what has not ended. */
async function load() {
  try {
    await tasks.load();
    acceptKey();
    $('list-problem').textContent = '';
    form.settle();
    await showUse();
  } catch (error) {
    if (error.status === 403) acceptKey(); // it is one, if for other things
    if (error.name === 'NoAnswer' && $('key-part').hidden) showParts({ isKeyWanted: false });
    $('list-problem').textContent = error.name === 'Refusal' ? inWords(error) : '';
  }
}

/** How much of its budget the key has used, if it has one. */
async function showUse() {
  const { budget, spent, currency } = await askJson('/usage');
  const [used, all] = [spent, budget].map((amount) => money({ amount, currency }));
  $('budget').hidden = budget === null;
  $('budget').textContent = budget === null ? '' : `${used} of ${all} used this month`;
}

/** Takes this key, null: none, and clears away what was shown for the one before. */
function changeKey(text) {
  useKey(text);
  tasks.forgetAll();
  $('budget').hidden = true;
  $('list-problem').textContent = '';
}

/** @param complaint about the key that was sent */
function askForKey(complaint) {
  changeKey(null);
  storeKey();
  showParts({ isKeyWanted: true });
  $('key-error').textContent = complaint;
  $('key').toggleAttribute('aria-invalid', complaint !== '');
  $('key').value = '';
  $('key').focus();
}

function acceptKey() {
  const isNew = !$('key-part').hidden;
  storeKey();
  $('key').value = '';
  $('key-error').textContent = '';
  showParts({ isKeyWanted: false });
  if (isNew) (form.source.isPrompt() ? $('prompt') : $('image')).focus();
}

function showParts({ isKeyWanted }) {
  $('key-part').hidden = !isKeyWanted;
  for (const id of ['compose', 'clips']) $(id).hidden = isKeyWanted;
  $('forget').hidden = isKeyWanted || !hasKey();
}

async function tryKey(event) {
  event.preventDefault();
  const text = $('key').value.trim();
  if (!/^[!-~]+$/.test(text)) return askForKey('this is no API key'); // nothing else fits into a header
  changeKey(text);
  await load();
}

async function forgetKey() {
  changeKey(null);
  storeKey();
  form.clear();
  await load(); // asks for another one where it is needed
}
