/** Boxes of AVIF, which is HEIF (ISO/IEC 23008-12). */

/**
 * libvips knows an AVIF by its first brand alone, which differs for an animation and in files of some programs. Each such file has a still
 * picture, too; of an animation it is the first frame.
 * @param {Uint8Array} picture
 * @returns {Buffer} of which the first brand is avif, if any is avif or avis
 */
export function withKnownBrand(picture) {
  const bytes = Buffer.from(picture.buffer, picture.byteOffset, picture.length);
  const isAvif =
    bytes.toString('latin1', 4, 8) === 'ftyp' && /avi[fs]/.test(bytes.toString('latin1', 8, bytes.readUInt32BE()));
  if (!isAvif) return bytes;
  const copy = Buffer.from(bytes);
  copy.write('avif', 8);
  return copy;
}

/**
 * The properties of the primary item.
 * @returns {{type: string, data: Buffer}[]}
 * @throws RangeError the file is malformed
 */
export function readProperties(bytes) {
  const meta = boxes(bytes).find(({ type }) => type === 'meta');
  if (!meta) return [];
  const inMeta = boxes(meta.data.subarray(4)); // after version and flags
  const itemProperties = boxes(inMeta.find(({ type }) => type === 'iprp')?.data);
  const all = boxes(itemProperties.find(({ type }) => type === 'ipco')?.data);
  const pitm = inMeta.find(({ type }) => type === 'pitm')?.data;
  const primary = pitm && (pitm[0] ? pitm.readUInt32BE(4) : pitm.readUInt16BE(4));
  /** @type {typeof all} */
  const properties = [];
  for (const { data } of itemProperties.filter(({ type }) => type === 'ipma')) {
    let at = 4;
    const read = (size) => {
      at += size;
      return data.readUIntBE(at - size, size);
    };
    for (let items = read(4); items > 0; items--) {
      const item = read(data[0] ? 4 : 2);
      for (let count = read(1); count > 0; count--) {
        const index = data[3] & 1 ? read(2) & 0x7fff : read(1) & 0x7f;
        if (item === primary && all[index - 1]) properties.push(all[index - 1]);
      }
    }
  }
  return properties;
}

/**
 * The boxes of a file, or in a box.
 * @returns {{type: string, data: Buffer}[]}
 */
function boxes(bytes = Buffer.alloc(0)) {
  const found = [];
  for (let at = 0; at + 8 <= bytes.length; ) {
    let size = bytes.readUInt32BE(at);
    let header = 8;
    if (size === 1) [size, header] = [Number(bytes.readBigUInt64BE(at + 8)), 16];
    if (size === 0) size = bytes.length - at;
    if (size < header) break; // no box
    found.push({ type: bytes.toString('latin1', at + 4, at + 8), data: bytes.subarray(at + header, at + size) });
    at += size;
  }
  return found;
}
