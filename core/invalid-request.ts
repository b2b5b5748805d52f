/** What is wrong with a request. */

/** An error or a warning about a field of a request. */
export interface FieldNote {
  field: string;
  message: string;
}

/** A request with invalid values. `errors` names every invalid field with the values that are allowed, but at most 64 unknown ones. */
export class InvalidRequest extends Error {
  constructor(readonly errors: FieldNote[]) {
    super(errors.map(({ field, message }) => `${field}: ${message}`).join('; '));
    this.name = 'InvalidRequest';
  }
}
