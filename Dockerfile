# One image for every stage, the simulator and the one-off preparation; the command says which.
FROM python:3.11.14-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE NOTICE ./
# The four folders before the package that links to them.
COPY schemas schemas
COPY agents agents
COPY streams streams
COPY sinks sinks
COPY fairlane fairlane
RUN python -m venv /venv && /venv/bin/pip install --no-cache-dir --constraint constraints.txt .

FROM python:3.11.14-slim-bookworm
RUN useradd --system --uid 10001 --create-home fairlane
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1
USER fairlane
WORKDIR /home/fairlane
ENTRYPOINT ["python", "-m"]
CMD ["fairlane", "--help"]
