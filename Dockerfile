# The page in a container, at port 7860; unrun so far. See docs/install.md.
#   docker build -t pyramid-flow .                                     without a card
#   docker build --build-arg TORCH=cu130 -t pyramid-flow:cuda .        with CUDA: cu130, cu128 or cu126
FROM python:3.12-slim

ARG TORCH=cpu
WORKDIR /app
COPY requirements.txt .
RUN pip install --no-cache-dir "torch==2.13.0" --index-url "https://download.pytorch.org/whl/${TORCH}" \
    && pip install --no-cache-dir -r requirements.txt
COPY . .

# A Space runs as user 1000; a volume that is mounted at /data takes over its owner.
RUN useradd --uid 1000 --create-home pyramid && mkdir -p /data && chown pyramid /data
USER pyramid
ENV PYTHONUNBUFFERED=1 HF_HOME=/data/models PYRAMID_CACHE=/data/cache
VOLUME /data
EXPOSE 7860
ENTRYPOINT ["python", "app.py", "--listen", "--port", "7860", "--output-dir", "/data/outputs"]
CMD ["--public"]
