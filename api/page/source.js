// What a clip begins with: a prompt, or a picture that is chosen, dropped, pasted, at an address, or an earlier clip's.
import { $, say } from './dom.js';
import { bytes } from './labels.js';

const MOST_BYTES = 20_000_000;

/**
 * @param onChange told after each change of what is begun with
 * @returns what there is now, and ways to change it
 */
export function createSource({ onChange }) {
  let file; // a picture of this machine
  let earlier; // the id of the clip whose picture it is
  const radio = (value) => document.querySelector(`[name="source"][value="${value}"]`);
  const isPrompt = () => radio('prompt').checked;

  function show() {
    const isChosen = file !== undefined || earlier !== undefined;
    $('prompt-part').hidden = !isPrompt();
    $('picture-part').hidden = isPrompt();
    $('chosen').hidden = !isChosen;
    $('drop').hidden = isChosen;
    $('address-part').hidden = isChosen;
    onChange();
  }

  function showPicture(link, name) {
    if ($('preview').src.startsWith('blob:')) URL.revokeObjectURL($('preview').src);
    $('preview').hidden = false;
    $('preview').src = link;
    $('chosen-name').textContent = name;
    say(`Picture: ${name}`);
    radio('picture').checked = true;
    show();
  }

  function complain(message) {
    radio('picture').checked = true;
    show();
    $('image-problem').textContent = message;
  }

  function complainNoMore() {
    for (const name of ['image', 'image_url']) {
      $(`${name}-problem`).textContent = '';
      $(name).removeAttribute('aria-invalid');
    }
  }

  function useFile(picture) {
    const isKnown = picture.type === '' || $('image').accept.split(',').includes(picture.type);
    complainNoMore();
    if (!isKnown) return complain(`${picture.name} is no jpeg, png, webp, avif, gif or tiff`);
    if (picture.size > MOST_BYTES) return complain(`${picture.name} has ${bytes(picture.size)}; 20 MB are the most`);
    [file, earlier] = [picture, undefined];
    showPicture(URL.createObjectURL(picture), `${picture.name}, ${bytes(picture.size)}`);
  }

  function useEarlier(task) {
    complainNoMore();
    [file, earlier] = [undefined, task.id];
    showPicture(task.still.link, 'The picture of an earlier clip');
  }

  function useAddress(text) {
    clear();
    radio('picture').checked = true;
    $('image_url').value = text;
    show();
  }

  function clear() {
    [file, earlier] = [undefined, undefined];
    $('image').value = '';
    $('image_url').value = '';
    complainNoMore();
  }

  for (const input of document.querySelectorAll('[name="source"]')) input.addEventListener('change', show);
  $('image').addEventListener('change', () => $('image').files.length > 0 && useFile($('image').files[0]));
  $('remove').addEventListener('click', () => {
    clear();
    show();
    $('image').focus();
  });
  $('preview').addEventListener('error', () => {
    $('preview').hidden = true; // a browser need not know every kind that the service knows
  });
  document.addEventListener('paste', (event) => {
    const [picture] = event.clipboardData.files;
    if (!picture) return;
    event.preventDefault();
    useFile(picture);
  });
  const carries = ({ dataTransfer }) =>
    dataTransfer?.types.includes('Files') || dataTransfer?.types.includes('text/uri-list');
  let depth = 0; // entering an element comes before leaving the one around it
  const isCaught = (inside) => document.body.classList.toggle('catching', inside);
  addEventListener('dragenter', (event) => carries(event) && isCaught(++depth > 0));
  addEventListener('dragleave', (event) => carries(event) && isCaught(--depth > 0));
  addEventListener('dragover', (event) => carries(event) && event.preventDefault());
  addEventListener('drop', (event) => {
    depth = 0;
    isCaught(false);
    if (!carries(event) || $('compose').hidden) return;
    event.preventDefault();
    const [picture] = event.dataTransfer.files;
    const address = event.dataTransfer.getData('text/uri-list').split('\n')[0].trim();
    if (picture) useFile(picture);
    else if (address) useAddress(address);
  });

  return {
    useFile,
    useEarlier,
    useAddress,
    usePrompt(text) {
      radio('prompt').checked = true;
      $('prompt').value = text;
      show();
    },
    show,
    isPrompt,
    /** Prompts can't be drawn here, so that only pictures are left. */
    refusePrompts() {
      radio('prompt').disabled = true;
      radio('picture').checked = true;
      show();
    },
    /** @returns what is sent: [name, text or File], or undefined if nothing was given */
    entry() {
      if (isPrompt()) return $('prompt').value.trim() === '' ? undefined : ['prompt', $('prompt').value];
      if (file) return ['image', file];
      if (earlier) return ['still_of', earlier];
      return $('image_url').value.trim() === '' ? undefined : ['image_url', $('image_url').value.trim()];
    },
    clear() {
      clear();
      $('prompt').value = '';
      show();
    },
  };
}
