/** H.264 in MP4, by FFmpeg in this process. */
import { appendFile, open } from 'node:fs/promises';
// biome-ignore-start lint/style/noRestrictedImports: This module is the only importer of node-av.
import { Dictionary, FFmpegError, Frame, Log, Rational } from 'node-av';
import { Decoder, Demuxer, Encoder, FilterAPI, Muxer } from 'node-av/api';
import {
  AV_LOG_ERROR,
  AV_PIX_FMT_RGB24,
  AVERROR_ENOSPC,
  AVFMT_FLAG_CUSTOM_IO,
  FF_ENCODER_LIBX264,
} from 'node-av/constants';
// biome-ignore-end lint/style/noRestrictedImports: The imports of node-av end here.
import { StorageError } from '../../core/bucket/bucket.ts';

Log.setLevel(AV_LOG_ERROR);

// For node-av's demuxer: Node 20 does not have it.
Promise.withResolvers ??= function withResolvers<T>() {
  let resolve!: PromiseWithResolvers<T>['resolve'];
  let reject!: PromiseWithResolvers<T>['reject'];
  const promise = new Promise<T>((...functions) => {
    [resolve, reject] = functions;
  });
  return { promise, resolve, reject };
};

export interface Mp4Options {
  /** frame size in pixels, even */
  width: number;
  height: number;
  /** frames a second, a whole number */
  fps: number;
  /** how the video was made, for the file's `comment` tag as JSON */
  metadata: Record<string, string | number>;
  /** marks the file as made by a trained model (IPTC's digital source type, in an XMP packet) */
  madeByAi?: boolean;
  signal?: AbortSignal;
}

/** x264's output depends on the number of threads. It is fixed, so that the same frames give the same bytes. */
export const THREADS = 2;
export const X264 = {
  crf: 18, // visually lossless
  preset: 'medium',
  mbtree: false, // with AVX-512 its results vary from run to run at some sizes, such as 192×128
};

// Converts the pixel format, and marks the BT.709 colours that players assume for such a video.
export const TO_YUV =
  'scale=out_color_matrix=bt709:out_range=tv:flags=accurate_rnd+full_chroma_int+bicubic,format=yuv420p,' +
  'setparams=color_primaries=bt709:color_trc=bt709:colorspace=bt709:range=tv';

const TO_RGB =
  'scale=in_color_matrix=bt709:in_range=tv:out_range=pc:flags=accurate_rnd+full_chroma_inp+bicubic,format=rgb24';

/**
 * Encodes frames as they arrive. The file can be played while it loads (moov first).
 * @param frames rgb24, width×height×3 bytes each
 * @returns the number of frames
 * @throws StorageError the disk is full
 */
export async function writeMp4(path: string, frames: AsyncIterable<Uint8Array>, options: Mp4Options): Promise<number> {
  try {
    const count = await encode(path, frames, options);
    await checkBoxes(path);
    if (options.madeByAi) await appendFile(path, AI_MARK);
    return count;
  } catch (error) {
    if (!(error instanceof FFmpegError && error.code === AVERROR_ENOSPC)) throw error;
    throw new StorageError('the disk of the temporary files has no space left', 'ENOSPC', 1);
  }
}

async function encode(
  path: string,
  frames: AsyncIterable<Uint8Array>,
  { width, height, fps, metadata, signal }: Mp4Options,
): Promise<number> {
  const timeBase = new Rational(1, fps);
  const framerate = new Rational(fps, 1);
  let count = 0;

  async function* pictures() {
    for await (const rgb of frames) {
      signal?.throwIfAborted();
      const pixels = Buffer.from(rgb.buffer, rgb.byteOffset, rgb.byteLength);
      const frame = Frame.fromVideoBuffer(pixels, {
        width,
        height,
        format: AV_PIX_FMT_RGB24,
        timeBase,
        pts: BigInt(count),
      });
      frame.duration = 1n;
      count++;
      yield frame;
    }
    yield null; // end of stream: flushes the encoder
  }

  {
    using filter = FilterAPI.create(TO_YUV, { framerate });
    using encoder = await Encoder.create(FF_ENCODER_LIBX264, {
      options: X264,
      context: { threadCount: THREADS, framerate, timeBase },
    });
    await using muxer = await Muxer.open(path, { format: 'mp4', options: { movflags: '+faststart' } });
    muxer.getFormatContext().clearFlags(AVFMT_FLAG_CUSTOM_IO); // else node-av 6.1 never closes the file (seydx/node-av#306)
    muxer.getFormatContext().metadata = Dictionary.fromObject({ comment: JSON.stringify(metadata) });
    const stream = muxer.addStream(encoder);
    for await (const packet of encoder.packets(filter.frames(pictures()))) {
      await muxer.writePacket(packet, stream);
      packet?.free();
    }
  } // closes the muxer first, which writes the end of the file
  return count;
}

/**
 * node-av reports no error of the writes that end a file.
 * @throws StorageError the boxes of an MP4 do not fill its file, or one is missing
 */
async function checkBoxes(path: string): Promise<void> {
  await using file = await open(path);
  const { size } = await file.stat();
  const types = new Set<string>();
  let end = 0;
  for (let length = 8; end < size && length >= 8; end += length) {
    const { buffer } = await file.read(Buffer.alloc(16), 0, 16, end);
    length = buffer.readUInt32BE(0);
    if (length === 1) length = Number(buffer.readBigUInt64BE(8));
    types.add(buffer.toString('latin1', 4, 8));
  }
  if (end !== size || !types.has('moov') || !types.has('mdat'))
    throw new StorageError('the MP4 is incomplete; most likely the disk of the temporary files is full', 'ENOSPC', 1);
}

/** An XMP packet in a box of its own, as in Adobe's XMP specification (part 3). Players skip it. */
const AI_MARK = (() => {
  const xmp =
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">' +
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" ' +
    'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" Iptc4xmpExt:DigitalSourceType=' +
    '"http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"/></rdf:RDF></x:xmpmeta><?xpacket end="r"?>';
  const body = Buffer.concat([Buffer.from('be7acfcb97a942e89c71999491e3afac', 'hex'), Buffer.from(xmp)]);
  const head = Buffer.alloc(8);
  head.writeUInt32BE(8 + body.length);
  head.write('uuid', 4, 'latin1');
  return Buffer.concat([head, body]);
})();

/**
 * Decodes a video that `writeMp4` made, frame by frame, as rgb24.
 * @throws Error if the file is not a video
 */
export async function* readMp4(path: string): AsyncGenerator<{ width: number; height: number; data: Buffer }> {
  await using demuxer = await Demuxer.open(path);
  const stream = demuxer.video();
  if (!stream) throw new Error(`${path} contains no video`);
  using decoder = await Decoder.create(stream);
  using filter = FilterAPI.create(TO_RGB);
  for await (const frame of filter.frames(decoder.frames(demuxer.packets(stream.index)))) {
    if (!frame) continue;
    const { width, height } = frame;
    yield { width, height, data: frame.toBuffer() };
    frame.free();
  }
}
