// @ts-check
// The choice of the frame's size: presets, and `Other` with two numbers.
import { $, element } from './dom.js';
import { setInput } from './setting-field.js';

/** @import { Field } from './setting-field.js' */

/**
 * Builds the choice into the form.
 * @param {{ W: Field, H: Field }} fields
 * @param {(name: string) => string} current the value of a setting
 */
export function createSizeChoice({ W, H }, current) {
  const [width, height] = [Number(W.schema.default), Number(H.schema.default)];
  /** @param {number} pixels */
  const round = (pixels) => Math.max(64, Math.round(pixels / 64) * 64);
  const side = round(Math.sqrt(width * height));
  const presets = [
    { name: 'Wide', W: width, H: height },
    { name: 'Tall', W: round(height), H: width },
    { name: 'Square', W: side, H: side },
  ];
  const radios = presets.map((preset) =>
    addRadio(preset.name, `${preset.W}x${preset.H}`, `${preset.W} × ${preset.H}`, () => {
      for (const [field, pixels, own] of /** @type {const} */ ([
        [W, preset.W, width],
        [H, preset.H, height],
      ]))
        field.input.value = pixels === own ? '' : String(pixels);
      showNumbers(false);
    }),
  );
  const other = addRadio('Other', 'other', 'W × H', () => showNumbers(true));
  $('size-numbers').append(W.node, H.node);
  $('sizes').append(W.place, H.place); // shown for every size

  /** @param {string} name @param {string} value @param {string} numbers @param {() => void} choose */
  function addRadio(name, value, numbers, choose) {
    const shape = element('i', { class: `shape ${name.toLowerCase()}` });
    const radio = element('input', { type: 'radio', name: 'size', value });
    radio.addEventListener('change', () => {
      choose();
      setInput(W.input, W.input.value); // tells the form
    });
    const label = element('span', {}, shape, name, element('small', { class: 'digits' }, numbers));
    $('size-choices').append(element('label', {}, radio, label));
    return radio;
  }

  /** @param {boolean} areShown */
  function showNumbers(areShown) {
    $('size-numbers').hidden = !areShown;
  }

  return {
    showNumbers,
    /** Checks the radio button of the current size; `Other` stays checked while its numbers are edited. */
    refresh() {
      const value = `${current('W')}x${current('H')}`;
      const isEditing = other.checked && !$('size-numbers').hidden;
      const radio = (!isEditing && radios.find((one) => one.value === value)) || other;
      radio.checked = true;
      showNumbers(radio === other);
    },
    reset() {
      if (radios[0]) radios[0].checked = true;
      showNumbers(false);
    },
  };
}
