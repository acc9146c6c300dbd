"""The contract, `openapi.yaml`, and the engine that turns it into running checks.

Connexion loads the contract, resolves its references and finds the functions that it names. The engine compiles each
operation once, at start, into readers and validators; a request only runs them. It knows nothing of tasks and would
serve any other contract:

    errors       what a request, a response or a contract can do wrong
    schemas      OpenAPI schema objects -> compiled validators
    parameters   parameter objects -> readers of path, query and headers
    negotiation  what a client accepts
    bodies       request bodies -> readers of JSON
    responses    response objects -> checks of what leaves
    operations   an operation: security, parameters, body, handler, response, in this order
    engine       the ASGI middleware: routes to operations
"""
