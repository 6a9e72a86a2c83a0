# The CPU image of fluoroscope-server and the fluoroscope command line.
#   docker build -t fluoroscope .        then: docker compose -f deploy/compose.yaml up
# (buildah and podman keep the HEALTHCHECK only with --format docker)
FROM debian:12-slim AS build
WORKDIR /src

# What changes rarely comes first, so that a change of the sources rebuilds only the last step.
COPY scripts/setup scripts/setup
COPY scripts/lib scripts/lib
RUN scripts/setup --packages-only
COPY scripts/requirements-libtorch.txt scripts/
RUN python3 -m venv .venv && .venv/bin/pip install --no-cache-dir --no-deps -r scripts/requirements-libtorch.txt

COPY . .
RUN cmake --preset release -DFLUOROSCOPE_TESTS=OFF \
 && cmake --build --preset release --target fluoroscope-server fluoroscope

# What the last stage takes: the two programs, and the libraries that do not come from Debian.
RUN mkdir -p /image/bin /image/lib \
 && install -s build/release/bin/fluoroscope-server build/release/bin/fluoroscope /image/bin/ \
 && ldd build/release/bin/fluoroscope-server | awk '$3 ~ /\/\.venv\// {print $3}' | xargs cp -L -t /image/lib/

FROM debian:12-slim
RUN apt-get update \
 && apt-get install -y --no-install-recommends \
      libabsl20220623 libgrpc++1.51 libprotobuf32 libspdlog1.10 libfmt9 libprometheus-cpp-core1.0 \
      libcpp-httplib0.11 libssl3 libxxhash0 libsqlite3-0 libstdc++6 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin fluoroscope
COPY --from=build /image/lib /usr/local/lib/fluoroscope
COPY --from=build /image/bin /usr/local/bin
COPY deploy/healthcheck /usr/local/bin/fluoroscope-healthcheck
COPY deploy/fluoroscope.textproto /etc/fluoroscope/fluoroscope.textproto
# A library that is missing fails here and not at the first start.
RUN echo /usr/local/lib/fluoroscope > /etc/ld.so.conf.d/fluoroscope.conf && ldconfig \
 && ! ldd /usr/local/bin/fluoroscope-server /usr/local/bin/fluoroscope | grep 'not found'

# libgomp's threads may spin only shortly, for other processes want the cores too; it reads this before main.
ENV GOMP_SPINCOUNT=6000
# By number, so that an orchestrator can see that it is not root.
USER 10001:10001
EXPOSE 7070 9464
# Models are mounted at /models; the default configuration serves /models/smollm2-135m. No VOLUME: it would hide a forgotten mount behind an
# empty folder of its own, and with some builders also the mount.
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s CMD ["fluoroscope-healthcheck"]
ENTRYPOINT ["fluoroscope-server"]
CMD ["--config", "/etc/fluoroscope/fluoroscope.textproto"]
