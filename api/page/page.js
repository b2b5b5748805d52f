// The page at /: posts the form, follows the task by its events, and lists what has been made.
const $ = (id) => document.getElementById(id);

/** An element with text and attributes; text is never read as HTML. */
function element(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

/** A field for every parameter of the API's own document, so that page and API can't drift apart. */
async function buildSettings() {
  const { components } = await (await fetch('/openapi.json')).json();
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
    const response = await fetch('/img2vid', { method: 'POST', body: new FormData($('form')) });
    const answer = await response.json();
    if (response.ok) follow(answer);
    else
      $('errors').textContent = (answer.errors ?? [{ message: answer.detail }])
        .map(({ field, message }) => (field ? `${field}: ${message}` : message))
        .join('\n');
  } catch {
    $('errors').textContent = 'The service does not answer.';
  } finally {
    button.disabled = false;
  }
}

function follow({ id }) {
  $('now').hidden = false;
  const events = new EventSource(`/status?id=${id}`);
  events.addEventListener('task', ({ data }) => {
    const task = JSON.parse(data);
    const count = task.step === undefined ? '' : ` ${task.step} of ${task.steps}`;
    const left = task.eta_seconds === undefined ? '' : `, about ${task.eta_seconds} s left`;
    $('bar').value = task.progress;
    $('stage').textContent = `${task.stage ?? task.status}${count}${left}`;
    if (!task.finished_at) return;
    events.close();
    $('now').hidden = true;
    $('tasks').prepend(shown(task));
  });
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
  item.append(element('p', { class: 'note' }, `${source} · seed ${seed} · ${task.status}${outcome}`));
  return item;
}

$('form').addEventListener('submit', submit);
await buildSettings();
const tasks = await (await fetch('/status')).json();
$('tasks').append(...tasks.slice(0, 20).map(shown));
const unfinished = tasks.find((task) => !task.finished_at);
if (unfinished) {
  $(unfinished.id)?.remove();
  follow(unfinished);
}
