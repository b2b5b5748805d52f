// @ts-check
// Notes of the API under the fields of the form: problems and warnings.
import { $, showNote } from './dom.js';

/** @import { FieldNote } from '../../core/request.ts' */
/** @import { Settings } from './settings.js' */

/** @param {Settings} settings */
export function createNotes(settings) {
  /** @type {string[]} fields with a note from the API */
  let noted = [];
  /** @type {HTMLElement[]} inputs that the API found wrong */
  let wrong = [];

  /**
   * Replaces the notes from the API.
   * @param {FieldNote[]} notes
   * @param {boolean} areProblems
   * @returns whether the form has all their fields
   */
  function replace(notes, areProblems) {
    for (const name of noted) if (!notes.some(({ field }) => field === name)) show(name, '', false);
    noted = notes.map(({ field }) => field);
    const inputs = notes.map(({ field, message }) => show(field, message, areProblems));
    wrong = areProblems ? inputs.filter((input) => input !== undefined) : [];
    return !inputs.includes(undefined);
  }

  /**
   * Shows a note under a field.
   * @param {string} name @param {string} text @param {boolean} isProblem
   * @returns {HTMLElement | undefined} the field's input; undefined if the form has no such field
   */
  function show(name, text, isProblem) {
    if (settings.has(name)) {
      settings.show(name, text, isProblem);
      return settings.input(name);
    }
    const field = sourceFields()[name];
    if (field) showNote(field, text, isProblem);
    return field?.input;
  }

  /** @param {string} name of a field that was edited */
  function remove(name) {
    if (noted.includes(name) || !settings.has(name)) show(name, '', false);
    noted = noted.filter((one) => one !== name);
  }

  return { replace, show, remove, wrong: () => wrong };
}

/** Inputs and places for notes of what a clip is made from. @returns {Record<string, { place: HTMLElement, input: HTMLElement }>} */
const sourceFields = () => ({
  prompt: { place: $('prompt-problem'), input: $('prompt') },
  image: { place: $('image-problem'), input: $('chosen').hidden ? $('image') : $('remove') },
  still_of: { place: $('image-problem'), input: $('remove') },
  image_url: { place: $('image_url-problem'), input: $('image_url') },
});
