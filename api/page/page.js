// The page at /: posts the form, follows the task by its events, and lists what has been made.
import { followEvents } from './events.js';

const $ = (id) => document.getElementById(id);
const LISTED = 20; // clips

let key = storedKey(); // null: none
/** Aborted when the key changes: what was begun with another one then ends. */
let session = new AbortController();

/** An element with text and attributes; text is never read as HTML. */
function element(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

/** A request that was refused, and why, in words. */
class Refusal extends Error {
  constructor({ status, headers }, { detail, errors = [{ message: detail }] }) {
    const wait = Number(headers.get('retry-after')) || 0; // seconds
    const reasons = errors.map(({ field, message }) => (field ? `${field}: ${message}` : message));
    super(reasons.join('\n') + (wait > 0 ? ` (again in ${wait} s)` : ''));
    this.status = status;
    this.again = (status === 429 || status >= 500) && { after: wait };
  }
}

/** fetch with the API key. @throws Refusal; any other error: there was no answer */
async function ask(address, { headers, ...init } = {}) {
  const { signal } = session;
  const authorization = key === null ? {} : { authorization: `Bearer ${key}` };
  const response = await fetch(address, { signal, ...init, headers: { ...headers, ...authorization } });
  if (response.ok) return response;
  const refusal = new Refusal(response, await response.json());
  if (refusal.status === 401 && !signal.aborted) askForKey(key === null ? '' : refusal.message);
  throw refusal;
}

/** What did not work, in words; about a key that is missing or wrong `askForKey` has said it. */
function tell(error, place = $('errors')) {
  if (error.status === 401 || error.name === 'AbortError') return;
  place.textContent = error instanceof Refusal ? error.message : 'The service does not answer.';
}

/** The key of this tab: in no other storage, and in no address. */
function storedKey() {
  try {
    return sessionStorage.getItem('api-key');
  } catch {
    return null; // a browser that stores nothing asks again after a reload
  }
}

function storeKey() {
  try {
    if (key === null) sessionStorage.removeItem('api-key');
    else sessionStorage.setItem('api-key', key);
  } catch {}
}

/** Takes this key for all that follows, null: none, and clears away what was shown for the one before. */
function useKey(text) {
  session.abort();
  session = new AbortController();
  key = text;
  $('tasks').replaceChildren();
  $('now').hidden = true;
  for (const id of ['errors', 'budget']) $(id).textContent = '';
}

/** @param complaint about the key that was sent */
function askForKey(complaint) {
  useKey(null);
  storeKey();
  showParts({ isKeyWanted: true });
  $('errors').textContent = complaint;
  $('key').value = '';
  $('key').focus();
}

function showParts({ isKeyWanted }) {
  $('key-form').hidden = !isKeyWanted;
  $('form').hidden = isKeyWanted;
  $('clips').hidden = isKeyWanted;
  $('forget').hidden = isKeyWanted || key === null;
}

async function tryKey(event) {
  event.preventDefault();
  const text = $('key').value.trim();
  if (!/^[!-~]+$/.test(text)) return askForKey('this is no API key'); // nothing else fits into a header
  useKey(text);
  await load();
}

async function forgetKey() {
  useKey(null);
  storeKey();
  $('form').reset();
  await load(); // asks for another one where it is needed
}

/** Shows what has been made, and goes on following what has not ended. */
async function load() {
  try {
    const tasks = await (await ask(`/status?limit=${LISTED}`)).json();
    acceptKey();
    $('tasks').replaceChildren(...tasks.map(shown));
    const unfinished = tasks.find((task) => !task.finished_at);
    if (unfinished) {
      $(unfinished.id).remove();
      follow(unfinished);
    }
    await showUse();
  } catch (error) {
    if (error.status === 403) acceptKey(); // it is one, if for other things
    tell(error);
  }
}

function acceptKey() {
  storeKey();
  $('key').value = '';
  showParts({ isKeyWanted: false });
}

/** How much of its budget the key has used, if it has one. */
async function showUse() {
  const { budget, spent, currency } = await (await ask('/usage')).json();
  const [used, all] = [spent, budget].map((amount) => money({ amount, currency }));
  $('budget').textContent = budget === null ? '' : `${used} of ${all} used this month`;
}

/** @param amount in millionths of the currency's unit */
const money = ({ amount, currency }) =>
  new Intl.NumberFormat(undefined, { style: 'currency', currency, maximumFractionDigits: 6 }).format(amount / 1e6);

/** A field for every parameter of the API's own document, so that page and API can't drift apart. */
async function buildSettings() {
  const { components } = await (await ask('/openapi.json')).json();
  const { prompt: _, still_of: __, webhook_url: ___, ...parameters } = components.schemas.Request.properties;
  for (const [name, schema] of Object.entries(parameters)) {
    const id = `setting-${name}`;
    const field = schema.enum
      ? element(
          'select',
          { id, name },
          element('option', { value: '' }, 'default'),
          ...schema.enum.map((value) => element('option', {}, value)),
        )
      : element('input', {
          id,
          name,
          placeholder: schema.default ?? '',
          inputmode: schema.type === 'string' ? 'url' : 'decimal',
        });
    $('settings').append(
      element('div', {}, element('label', { for: id }, name), field, element('small', {}, schema.description)),
    );
  }
}

async function submit(event) {
  event.preventDefault();
  const button = $('form').querySelector('button');
  button.disabled = true;
  $('errors').textContent = '';
  try {
    follow(await (await ask('/img2vid', { method: 'POST', body: new FormData($('form')) })).json());
  } catch (error) {
    tell(error);
  } finally {
    button.disabled = false;
  }
}

async function follow({ id }) {
  $('now').hidden = false;
  const { signal } = session;
  try {
    await followEvents((headers) => ask(`/status?id=${id}`, { headers, signal }), {
      onData(data) {
        const task = JSON.parse(data);
        const count = task.step === undefined ? '' : ` ${task.step} of ${task.steps}`;
        const left = task.eta_seconds === undefined ? '' : `, about ${task.eta_seconds} s left`;
        $('bar').value = task.progress;
        $('stage').textContent = `${task.stage ?? task.status}${count}${left}`;
        if (!task.finished_at) return false;
        $('tasks').prepend(shown(task));
        return true;
      },
      onBreak: (error) => error && tell(error, $('stage')),
      signal,
    });
    if (signal.aborted) return;
    $('now').hidden = true;
    await showUse();
  } catch (error) {
    if (!signal.aborted) $('now').hidden = true;
    tell(error);
  }
}

function shown(task) {
  const { prompt, image_url, still_of, seed } = task.input;
  const source = prompt ?? image_url ?? (still_of ? `again: ${still_of}` : 'a picture');
  const item = element('li', { id: task.id });
  for (const { link } of task.grid ? [task.grid] : (task.videos ?? [])) {
    item.append(
      element('video', { src: link, controls: '', loop: '', muted: '', playsinline: '', preload: 'metadata' }),
    );
  }
  const outcome = task.error ? `: ${task.error.message}` : '';
  const cost = task.cost?.amount > 0 ? ` · ${money(task.cost)}` : '';
  item.append(element('p', { class: 'note' }, `${source} · seed ${seed} · ${task.status}${outcome}${cost}`));
  return item;
}

$('form').addEventListener('submit', submit);
$('key-form').addEventListener('submit', tryKey);
$('forget').addEventListener('click', forgetKey);
await buildSettings();
await load();
