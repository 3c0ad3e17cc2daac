# codi2's server. Build: docker build -t codi2 .   Run: docker run -p 127.0.0.1:8000:8000 -v codi2:/data codi2
FROM python:3.12-slim-bookworm
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE NOTICE ./
COPY src src
COPY examples/media examples/media
RUN pip install --no-cache-dir --no-deps --extra-index-url $TORCH_INDEX -c constraints.txt torch \
    && pip install --no-cache-dir -c constraints.txt ".[serve]" \
    && useradd --create-home codi2 && mkdir /data && chown codi2 /data
USER codi2
ENV CODI2_HOME=/data
VOLUME /data
EXPOSE 8000
# others can reach a container: the server starts once there is a key (docs/deployment.md)
ENTRYPOINT ["codi2", "serve", "--host", "0.0.0.0"]
