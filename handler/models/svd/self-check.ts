/**
 * Verifies a device before it serves: the four networks of the small model must give the numbers that a processor gives. self-check.json has
 * these by network, float32 in base64: what computeNetworks yields for the device cpu. A test compares both.
 */
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { type ChosenDevice, firstLine } from '../../onnx/device.ts';
import { FASTEST_POLICY, POLICIES } from '../../onnx/policy.ts';
import { withSession } from '../../onnx/session.ts';
import { product } from '../../onnx/value.ts';
import { generator } from '../../sampling/torch-random.ts';
import { openFiles } from './files.ts';
import { createGraphs } from './graphs.ts';
import { psnr } from './psnr.ts';

const SMALL_MODEL = fileURLToPath(new URL('../testdata/small-svd', import.meta.url));
const STORED = new URL('self-check.json', import.meta.url);

/** Two frames of 256 places each. */
const SIZE = { H: 128, W: 128, T: 2 };
const NETWORKS = ['clip', 'encoder', 'unet', 'decoder'] as const;
/** Of the numbers of each output at least so many are compared, evenly spread. */
const COMPARED = 512;
/** The least PSNR in dB. Rounding alone leaves about 70 in half precision and 115 in single precision. */
const LEAST_PSNR = { float16: 60, float32: 90 };

/** One network's result. */
export interface NetworkCheck {
  network: (typeof NETWORKS)[number];
  /** dB, against the stored numbers */
  psnr: number;
  /** dB, from which it passes */
  least: number;
  /** milliseconds to open it and to run it */
  ms: number;
}

type CheckedDevice = Pick<ChosenDevice, 'device' | 'limits'>;

/**
 * Each network's result, one after the other.
 * @param folder of the model; default: the small one that the stored numbers are of
 */
export async function* checkNetworks(device: CheckedDevice, folder?: string): AsyncGenerator<NetworkCheck> {
  const stored: Record<string, string> = JSON.parse(readFileSync(STORED, 'utf8'));
  const least = LEAST_PSNR[POLICIES[FASTEST_POLICY[device.device]].precision];
  for await (const { network, values, ms } of computeNetworks(device, folder)) {
    const expected = new Float32Array(new Uint8Array(Buffer.from(stored[network]!, 'base64')).buffer);
    yield { network, psnr: psnr(values, expected), least, ms };
  }
}

/**
 * @param onPass called after each network
 * @throws Error of one line that names the device, and the network with its PSNR or why it can't be run
 */
export async function checkDevice(
  device: CheckedDevice & { name: string },
  folder?: string,
  onPass?: () => Promise<void>,
): Promise<void> {
  for await (const check of checkNetworks(device, folder)) {
    const fault = faultOf(check, device);
    if (fault) throw new Error(fault);
    await onPass?.();
  }
}

/** One line that names the network, its PSNR and the device; undefined if the check passed. */
export function faultOf(
  { network, psnr, least }: NetworkCheck,
  { device, name }: Pick<ChosenDevice, 'device' | 'name'>,
) {
  if (psnr >= least) return undefined; // what is not a number fails
  const found = `${network} has ${psnr.toFixed(0)} dB, and ${least} are needed`;
  return `${device} on the ${name} computes wrong numbers: ${found}`;
}

/**
 * The compared numbers of each network on a device: of the UNet for both branches of guidance.
 * @throws Error of one line that names the device and the network which it can't run
 */
export async function* computeNetworks({ device, limits }: CheckedDevice, folder = SMALL_MODEL) {
  const graphs = createGraphs(openFiles(folder, { half: true }), device, limits);
  for (const [seed, network] of NETWORKS.entries()) {
    const start = performance.now();
    const { H, W, T } = SIZE;
    const graph = graphs.graphOf(network, FASTEST_POLICY[device], H, W, T, 0);
    const outputs = await withSession(graph, async (session) => {
      const { randn } = generator(seed);
      const feeds = Object.fromEntries(graph.inputs.map(({ name, shape }) => [name, randn(product(shape))]));
      const conditional = await session.run(feeds);
      if (!feeds.context) return [conditional];
      return [conditional, await session.run({ ...feeds, context: feeds.context.map(() => 0) })];
    }).catch((error: Error) => {
      throw new Error(`${device} can’t run ${network}: ${firstLine(error)}`, { cause: error });
    });
    yield { network, values: spread(outputs), ms: performance.now() - start };
  }
}

/** Some numbers of each array, one array's after the other's. */
function spread(arrays: readonly Float32Array[]): Float32Array {
  const picked = arrays.map((values) => {
    const step = Math.max(1, Math.floor(values.length / COMPARED));
    return values.filter((_, i) => i % step === 0);
  });
  return Float32Array.from(picked.flatMap((values) => [...values]));
}
