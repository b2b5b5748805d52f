/** The limits of input pictures, and their text for documentation, errors and the page. */
export const MAX_PICTURE_BYTES = 20_000_000;
export const MAX_PICTURE_PIXELS = 64_000_000;
/** Pixels, the limit of JPEG. */
export const MAX_PICTURE_SIDE = 65_535;
/** Of a JPEG. Encoders write about ten; a decoder goes through all pixels for each. */
export const MAX_PICTURE_SCANS = 100;

const PICTURE_TYPES = ['jpeg', 'png', 'webp', 'avif', 'gif', 'tiff'] as const;
/** `jpeg, png, webp, avif, gif or tiff` */
export const PICTURE_TYPES_TEXT = `${PICTURE_TYPES.slice(0, -1).join(', ')} or ${PICTURE_TYPES.at(-1)}`;
/** `at most 20 MB, 64 megapixels and 65,535 pixels a side` */
export const PICTURE_LIMITS_TEXT = `at most ${MAX_PICTURE_BYTES / 1e6} MB, ${MAX_PICTURE_PIXELS / 1e6} megapixels and ${MAX_PICTURE_SIDE.toLocaleString('en')} pixels a side`;
