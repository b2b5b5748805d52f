// @ts-check
// What a clip is made from: a prompt, or a picture that is chosen, dropped, pasted, at a URL, or of an earlier clip.
import { $, announce } from './dom.js';
import { formatBytes } from './format.js';
import { stillLink } from './task.js';

/** @import { PresentedTask as Task } from '../../core/responses.ts' */
/** @typedef {[name: string, value: string | File]} Entry a field of the request */

const MAX_BYTES = 20_000_000;

/** @param {'prompt' | 'picture'} value @returns {HTMLInputElement} */
const radio = (value) => /** @type {any} */ (document.querySelector(`[name="source"][value="${value}"]`));
const isPrompt = () => radio('prompt').checked;

/** @param {{ onChange: () => void }} options */
export function createSource({ onChange }) {
  /** @type {File | undefined} a picture of the user's machine */
  let file;
  /** @type {string | undefined} the id of the task whose picture it is */
  let earlier;

  function render() {
    const hasPicture = file !== undefined || earlier !== undefined;
    $('prompt-part').hidden = !isPrompt();
    $('picture-part').hidden = isPrompt();
    $('chosen').hidden = !hasPicture;
    $('drop').hidden = hasPicture;
    $('image_url-part').hidden = hasPicture;
    onChange();
  }

  /** @param {string} problem */
  function rejectFile(problem) {
    radio('picture').checked = true;
    render();
    $('image-problem').textContent = problem;
  }

  function clearPicture() {
    file = earlier = undefined;
    $('image').value = '';
    $('image_url').value = '';
    clearProblems();
  }

  /** @param {File} picture */
  function useFile(picture) {
    clearProblems();
    const problem = fileProblem(picture);
    if (problem) return rejectFile(problem);
    [file, earlier] = [picture, undefined];
    showPreview(URL.createObjectURL(picture), `${picture.name}, ${formatBytes(picture.size)}`);
    render();
  }

  /** @param {Task} task one with a picture */
  function useEarlier(task) {
    clearProblems();
    [file, earlier] = [undefined, task.id];
    showPreview(stillLink(task) ?? '', 'The picture of an earlier clip');
    render();
  }

  /** @param {string} url */
  function useUrl(url) {
    clearPicture();
    radio('picture').checked = true;
    $('image_url').value = url;
    render();
  }

  for (const value of /** @type {const} */ (['prompt', 'picture'])) radio(value).addEventListener('change', render);
  $('image').addEventListener('change', () => {
    const picture = $('image').files?.[0];
    if (picture) useFile(picture);
  });
  $('remove').addEventListener('click', () => {
    clearPicture();
    render();
    $('image').focus();
  });
  listenForPictures({ onFile: useFile, onUrl: useUrl });

  return {
    useFile,
    useEarlier,
    useUrl,
    /** @param {string} text */
    usePrompt(text) {
      radio('prompt').checked = true;
      $('prompt').value = text;
      render();
    },
    render,
    isPrompt,
    /** Begins with a picture, where the service draws no prompts. @param {boolean} isPromptAllowed */
    preferPicture(isPromptAllowed) {
      radio('prompt').disabled = !isPromptAllowed;
      radio('picture').checked = true;
      render();
    },
    /** @returns {Entry | undefined} the field that is sent; undefined if nothing was given */
    entry() {
      if (isPrompt()) return $('prompt').value.trim() === '' ? undefined : ['prompt', $('prompt').value];
      if (file) return ['image', file];
      if (earlier) return ['still_of', earlier];
      return $('image_url').value.trim() === '' ? undefined : ['image_url', $('image_url').value.trim()];
    },
    clear() {
      clearPicture();
      $('prompt').value = '';
      render();
    },
  };
}

$('preview').addEventListener('error', () => {
  $('preview').hidden = true; // a browser need not know every type that the service knows
});

/** @param {string} link @param {string} name */
function showPreview(link, name) {
  if ($('preview').src.startsWith('blob:')) URL.revokeObjectURL($('preview').src);
  $('preview').hidden = false;
  $('preview').src = link;
  $('chosen-name').textContent = name;
  announce(`Picture: ${name}`);
  radio('picture').checked = true;
}

/** @param {File} picture */
function fileProblem({ name, type, size }) {
  if (type !== '' && !$('image').accept.split(',').includes(type))
    return `${name} is not a jpeg, png, webp, avif, gif or tiff`;
  return size > MAX_BYTES ? `${name} has ${formatBytes(size)}; the limit is 20 MB` : undefined;
}

function clearProblems() {
  for (const name of ['image', 'image_url']) {
    $(`${name}-problem`).textContent = '';
    $(name).removeAttribute('aria-invalid');
  }
}

/**
 * Takes pictures that are pasted, or dropped anywhere on the page.
 * @param {{ onFile: (file: File) => void, onUrl: (url: string) => void }} options
 */
function listenForPictures({ onFile, onUrl }) {
  document.addEventListener('paste', (event) => {
    const picture = event.clipboardData?.files[0];
    if (!picture) return;
    event.preventDefault();
    onFile(picture);
  });
  /** @param {DragEvent} event */
  const hasPicture = ({ dataTransfer }) =>
    dataTransfer?.types.includes('Files') || dataTransfer?.types.includes('text/uri-list');
  let depth = 0; // a drag enters an element before it leaves the one around it
  /** @param {number} change */
  const moveDrag = (change) => {
    depth += change;
    document.body.classList.toggle('dragging', depth > 0);
  };
  addEventListener('dragenter', (event) => hasPicture(event) && moveDrag(1));
  addEventListener('dragleave', (event) => hasPicture(event) && moveDrag(-1));
  addEventListener('dragover', (event) => hasPicture(event) && event.preventDefault());
  addEventListener('drop', (event) => {
    moveDrag(-depth);
    if (!event.dataTransfer || !hasPicture(event) || $('compose').hidden) return;
    event.preventDefault();
    const [picture] = event.dataTransfer.files;
    const url = event.dataTransfer.getData('text/uri-list').split('\n')[0]?.trim();
    if (picture) onFile(picture);
    else if (url) onUrl(url);
  });
}
