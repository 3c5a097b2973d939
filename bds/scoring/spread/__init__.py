"""One copy of a model spread over processes by decoder blocks, for models that no single GPU holds; scores stay exact.

One process, the hub, has the embeddings, the first blocks, the final norm and the output head; each of the others, the
parts, has consecutive blocks that follow. Hidden states go from the hub through the parts and back, gradients the
opposite way. Squared norms and dots of gradients are sums over parameters, so each process takes them of its own
parameters and the hub adds them up.

    division.py    which process has which blocks, and loading no other weights
    chain.py       how hidden states and gradients pass through the parts; parts in this process, for tests
    part.py        the blocks of one part, and the columns of their parameters
    hub.py         the engine with some of its blocks elsewhere

The reference is in pieces (bds/scoring/reference_files.py): every process writes the gradients of its own parameters
and reads them back.
"""
