"""What the service tells about itself. Nothing here decides an answer.

logs     lines on standard error
metrics  what Prometheus reads
tracing  spans for OpenTelemetry
"""
