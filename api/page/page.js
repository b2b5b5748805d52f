// @ts-check
// The page at /: asks for an API key where one is needed, and puts the form and the list of tasks together.

import { createActions } from './actions.js';
import {
  errorText,
  hasKey,
  onApi,
  RefusedError,
  request,
  requestJson,
  storeKey,
  UnreachableError,
  useKey,
} from './api.js';
import { createCard } from './card.js';
import { createCardList } from './card-list.js';
import { $, element } from './dom.js';
import { createForm } from './form.js';
import { formatMoney } from './format.js';
import { modelDescription, setWords } from './labels.js';

onApi('away', (message) => {
  $('outage').textContent = `${message} Trying again; running clips continue.`;
});
onApi('back', () => {
  $('outage').textContent = '';
});
onApi('key', askForKey);

const { info, servers, components } = await fetchDocument();
const { properties: parameters } = components.schemas.Request;
setWords(parameters);
const form = createForm(parameters, { onTask: (submission) => actions.showNew(submission) });
const list = createCardList({
  createCard: (task) => createCard(task, actions),
  titleOf: (task) => actions.titleOf(task),
  onEnd: () => showBudget().catch(() => undefined), // an outage is shown already
  onRemove: (id) => actions.forget(id),
});
const actions = createActions({ parameters, form, list });

$('address').textContent = servers[0].url;
const bridge = parameters.prompt['x-bridge'];
$('model').textContent = modelDescription(info['x-model'], bridge);
if (bridge === 'placeholder')
  $('prompt-help').textContent =
    'This service has no image provider, so it draws a placeholder as the picture of a prompt.';
if (bridge) form.source.preferPicture(bridge !== 'none');
if (bridge === 'none') {
  const text = 'Prompts need an image provider, and this service has none. Start with a picture.';
  $('sources').append(element('p', { class: 'help' }, text));
}
for (const image of document.querySelectorAll('.examples img'))
  image.parentElement?.addEventListener('click', () => usePicture(/** @type {HTMLImageElement} */ (image).src));
onApi('back', () => {
  if ($('key-part').hidden) load();
});
window.addEventListener('hashchange', load);
$('key-form').addEventListener('submit', onKeySubmit);
$('forget').addEventListener('click', onForget);
await load();

/** The OpenAPI document; waits for the API if that is away. */
async function fetchDocument() {
  for (;;) {
    try {
      return await requestJson('/openapi.json');
    } catch {
      await new Promise((resolve) => onApi('back', resolve, { once: true }));
    }
  }
}

/** Makes a clip of an example. @param {string} url of its picture */
async function usePicture(url) {
  const response = await request(url).catch(() => undefined);
  if (!response) return; // an outage is shown already
  const picture = await response.blob();
  form.source.useFile(new File([picture], url.replace(/.*example-/, ''), { type: picture.type }));
  $('form').requestSubmit();
}

/** Loads the list and the budget. Whether that is allowed shows whether the API key is right. */
async function load() {
  try {
    await list.load();
    acceptKey();
    $('list-problem').textContent = '';
    form.check();
    await showBudget();
    await showLinked();
  } catch (error) {
    if (error instanceof RefusedError && error.status === 403) acceptKey(); // a valid key without the scope
    if ($('key-part').hidden) showParts({ isKeyNeeded: false });
    const text = error instanceof UnreachableError ? '' : errorText(error); // '' where the page shows it elsewhere
    if (text) $($('key-part').hidden ? 'list-problem' : 'key-error').textContent = text;
  }
}

/** Shows the task that the page's URL names, as `urls.web` of a task does. */
async function showLinked() {
  const id = location.hash.slice(1);
  if (!/^[\da-f-]{36}$/.test(id)) return;
  if (!list.get(id)) list.put([await requestJson(`/tasks/${id}`)]);
  document.getElementById(id)?.scrollIntoView();
}

/** Shows how much of its budget the key has used, if it has one. */
async function showBudget() {
  const { budget, spent, currency } = await requestJson('/usage');
  const [used, total] = [spent, budget].map((amount) => formatMoney({ amount, currency }));
  $('budget').hidden = budget === null;
  $('budget').textContent = budget === null ? '' : `${used} of ${total} used this month`;
}

/** Uses another API key and removes what was shown for the one before. @param {string | null} key null: none */
function changeKey(key) {
  useKey(key);
  actions.reset();
  $('budget').hidden = true;
  $('list-problem').textContent = '';
}

/** @param {string} problem with the last key */
function askForKey(problem) {
  changeKey(null);
  storeKey();
  showParts({ isKeyNeeded: true });
  $('key-error').textContent = problem;
  $('key').toggleAttribute('aria-invalid', problem !== '');
  $('key').value = '';
  $('key').focus();
}

function acceptKey() {
  const isNew = !$('key-part').hidden;
  storeKey();
  $('key').value = '';
  $('key-error').textContent = '';
  showParts({ isKeyNeeded: false });
  if (isNew) $(form.source.isPrompt() ? 'prompt' : 'image').focus();
}

/** @param {{ isKeyNeeded: boolean }} options */
function showParts({ isKeyNeeded }) {
  $('key-part').hidden = !isKeyNeeded;
  for (const id of ['compose', 'clips']) $(id).hidden = isKeyNeeded;
  $('forget').hidden = isKeyNeeded || !hasKey();
}

/** @param {Event} event */
async function onKeySubmit(event) {
  event.preventDefault();
  const key = $('key').value.trim();
  if (!/^[!-~]+$/.test(key)) return askForKey('This is not an API key.'); // a header cannot hold anything else
  changeKey(key);
  await load();
}

async function onForget() {
  changeKey(null);
  storeKey();
  form.clear();
  await load(); // asks for another key if one is needed
}
