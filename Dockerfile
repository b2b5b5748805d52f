# One image for every role: docker run IMAGE [all | api | worker | TOOL …]. docs/deploy/docker.md explains how to build and run it.
#   --build-arg CUDA=0   without CUDA, 2 GB smaller, for the API and for machines without a GPU
ARG BASE=node:24-bookworm-slim
ARG CUDA=1

# All packages, without onnxruntime's libraries for other platforms.
FROM ${BASE} AS packages
WORKDIR /app
COPY package.json package-lock.json .npmrc ./
RUN npm ci --cache /tmp/npm && rm -r /tmp/npm \
  && find node_modules/onnxruntime-node/bin/napi-v6 -mindepth 2 -maxdepth 2 ! -path "*/linux/$(node -p process.arch)" \
    -exec rm -r {} +

# The packages of a running service, without compilers, types, sources and maps.
FROM packages AS production
RUN npm uninstall --no-save --omit=dev --cache /tmp/npm tsx \
  && rm -r /tmp/npm node_modules/.package-lock.json node_modules/typescript node_modules/@typescript node_modules/@libsql/*-musl \
  && rm -r node_modules/highlight.js/scss node_modules/highlight.js/styles node_modules/highlight.js/lib/languages \
  && find node_modules -type f ! -iname '*licen[cs]e*' \
    \( -name '*.map' -o -name '*.ts' -o -name '*.mts' -o -name '*.cts' -o -name '*.md' -o -name '*.markdown' \) -delete \
  && find node_modules -type d -empty -delete

# onnxruntime's CUDA provider with its libraries. The command checks that each finds all that it needs, except for the driver.
FROM packages AS cuda-1
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends python3-pip && rm -rf /var/lib/apt/lists/*
COPY infra/tools/command.ts infra/tools/cuda.ts infra/tools/cuda-wheels.json infra/tools/
COPY infra/run/env-file.mjs infra/run/
COPY core/standard-output.ts core/env-file.mjs core/
COPY handler/onnx/provider.ts handler/onnx/
ENV PLACE=node_modules/onnxruntime-node/bin/napi-v6/linux/x64
RUN npm run cuda \
  && mkdir -p "/cuda/$PLACE" \
  && mv "$PLACE/cuda" "$PLACE"/libonnxruntime_providers_* "/cuda/$PLACE"

FROM packages AS cuda-0
RUN mkdir /cuda

# hadolint ignore=DL3006
FROM cuda-${CUDA} AS cuda

FROM packages AS programs
COPY tsconfig.json tsconfig.build.json ./
COPY api api
COPY client client
COPY core core
COPY docs docs
COPY handler handler
COPY infra infra
RUN npm run build

# The layers that change least come first.
FROM ${BASE}
ARG CUDA
WORKDIR /app
# For WebGPU: the Vulkan loader, and a library that NVIDIA's driver for Vulkan needs. The driver itself is the host's.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends libvulkan1 libxext6 && rm -rf /var/lib/apt/lists/*
ENV NODE_ENV=production HOST=0.0.0.0 PORT=5000 DATA_DIR=/data HF_HOME=/data/huggingface
# What NVIDIA's container toolkit mounts of the host's driver: CUDA, nvidia-smi, Vulkan.
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility,graphics
RUN mkdir /data && chown 1000:1000 /data
COPY --from=cuda /cuda ./
COPY --from=production /app/node_modules node_modules
COPY package.json ./
COPY --from=programs /app/dist dist
RUN [ "${CUDA}" = 0 ] || node dist/infra/tools/cuda.js --check
USER 1000:1000
VOLUME /data
EXPOSE 5000
HEALTHCHECK --interval=15s --timeout=5s --start-period=15m CMD ["node", "dist/infra/image/health.js"]
ENTRYPOINT ["node", "dist/infra/image/start.js"]
ARG VERSION=0.1.0
ARG REVISION=
LABEL org.opencontainers.image.title="Text to Video API" \
  org.opencontainers.image.description="A prompt or a picture in, a link to an MP4 out" \
  org.opencontainers.image.version="${VERSION}" \
  org.opencontainers.image.revision="${REVISION}"
