"""
The app. `server` runs it, `app` takes every request, `pipeline` knows the order of a generating one's steps,
`runtime` is all that it consists of.

    edge            the client's side: the wire, who may ask, what is read and what is answered
    steps           what the pipeline does with a request: made ready, admitted, forwarded, or passed on
    conversations   what is known of conversations, and how they are made to fit
    relays          answers on their way to the client
    upstreams       what is known of the upstreams, and which of them answers
    views           what people and programs see: lists, status, metrics, logs, admin routes
"""
