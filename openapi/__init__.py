"""The contract, `openapi.yaml`, and the engine that turns it into running checks.

Connexion loads the contract, resolves its references and finds the functions that it names. At start, the engine
compiles each operation into readers and validators. A request only runs them. The engine knows nothing of tasks and
could serve another contract:

    routing      the router: finds the operation for a method and a path
    contract     the middleware that compiles the operations and calls the routed one
    operations   one operation: security, parameters, body, handler, response, in this order
    parameters   parameter objects -> readers of path, query and header values
    bodies       request body objects -> readers of JSON bodies
    negotiation  which media types and content codings a client accepts
    responses    response objects -> checks of answers
    schemas      schema objects -> validators
    errors       the exceptions for faults of requests, responses and contracts

A construct that the engine does not implement stops the start, so no part of the contract goes unchecked.
"""
