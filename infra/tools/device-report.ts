/** What `npm run device` prints: JSON, or the same as text. */
import { formatCount, formatMemory } from '../../core/format.ts';
import type { Device } from '../../handler/onnx/policy.ts';
import type { PreciseCheck, Size, Speed } from './device-measure.ts';
import type { Outcome } from './device-process.ts';

/** `ms` are milliseconds, `_bytes` bytes, null where unknown. */
export interface FullReport {
  /** operating system, processor and Node */
  platform: string;
  devices: Partial<Record<Device, ReturnType<typeof reportOf>>>;
  /** what DEVICE=auto takes */
  auto?: { device: Device; reason: string };
  bench?: ReturnType<typeof benchOf>;
  /** what the command took */
  seconds: number;
}

/** Why a device can't serve, undefined if it can. */
export const obstacleOf = ({ measured, missing }: Outcome): string | undefined =>
  missing.find ?? missing['self-check'] ?? measured.fault;

const bytes = (count: number | null) => (count !== null && Number.isFinite(count) ? Math.round(count) : null);

const checksOf = (checks: readonly PreciseCheck[]) =>
  checks.map(({ network, precision, psnr, least, ms }) => ({
    ...{ network, precision },
    /** at most 999: equal numbers have infinitely many */
    psnr_db: Math.min(psnr, MOST_DB),
    ...{ needed_db: least, passed: psnr >= least, ms },
  }));
const MOST_DB = 999;

export function reportOf(outcome: Outcome) {
  const { measured, missing } = outcome;
  const { found, checks, product_gflops, block } = measured;
  const obstacle = obstacleOf(outcome);
  return {
    usable: obstacle === undefined,
    ...{ obstacle, drawback: found?.drawback, name: found?.name },
    memory_bytes: found && bytes(found.memory),
    limits: found?.limits && { largest_binding_bytes: found.limits.binding, shader_f16: found.limits.half },
    checks: checks && checksOf(checks),
    ...{ product_gflops, block },
    /** the steps that were not completed, and why */
    missing: found && Object.keys(missing).length > 0 ? missing : undefined,
  };
}

/** @param examined the same device's */
export function benchOf(device: Device, size: Size, examined: Outcome, { measured, missing, memory }: Outcome) {
  const { checks = [], decoder, unet } = measured;
  return {
    ...{ device, size },
    checks: checksOf([...(examined.measured.checks ?? []), ...checks]),
    /** of one frame */
    decoder,
    /** of one evaluation; a step under guidance has two */
    unet: unet && { ...unet, step_ms: unet.ms && 2 * unet.ms },
    peak_memory: { resident_bytes: bytes(memory.resident), gpu_bytes: bytes(memory.gpu) },
    /** the steps that were not completed, and why */
    missing,
  };
}

/** A line for each fact, a paragraph for each device. */
export function formatReport({ platform, devices, auto }: FullReport): string {
  const paragraphs = Object.entries(devices).map(([device, report]) => {
    const {
      usable,
      obstacle,
      drawback,
      name,
      memory_bytes,
      limits,
      checks = [],
      product_gflops,
      block,
      missing,
    } = report;
    const facts: Record<string, string | undefined> = {
      name,
      memory: name && (memory_bytes ? formatMemory(memory_bytes) : 'unknown'),
      limits:
        limits &&
        `tensors of ${formatMemory(limits.largest_binding_bytes)}, ${limits.shader_f16 ? 'with' : 'no'} shader-f16`,
      'not for auto': drawback,
      ...Object.fromEntries(checks.map((check) => [check.network, formatCheck(check)])),
      product: product_gflops === undefined ? undefined : `${product_gflops.toPrecision(3)} GFLOP/s`,
      'UNet block': block && formatSpeed(block),
      ...missing,
    };
    const lines = Object.entries(facts).filter(([, fact]) => fact);
    return [
      `${device}: ${usable ? 'works' : obstacle}`,
      ...lines.map(([label, fact]) => `  ${label.padEnd(14)} ${fact}`),
    ];
  });
  const last = auto ? [`DEVICE=auto takes ${auto.device}: ${auto.reason}`] : [];
  return `${[[platform], ...paragraphs, last]
    .map((lines) => lines.join('\n'))
    .join('\n\n')
    .trim()}\n`;
}

const formatCheck = ({ psnr_db, needed_db, passed, ms }: ReturnType<typeof checksOf>[number]) =>
  `${passed ? 'right' : 'WRONG'}: ${psnr_db.toFixed(0)} dB, at least ${needed_db} needed, in ${ms.toFixed(0)} ms`;

const formatSpeed = ({ width, height, frames, first_ms, ms = first_ms }: Speed) =>
  `${ms.toPrecision(3)} ms for ${formatCount(frames, 'frame')} of ${width} × ${height}`;
