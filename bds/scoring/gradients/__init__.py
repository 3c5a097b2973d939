"""Exact per-sample gradient quantities without per-sample gradients.

With every weight frozen, one batched backward pass carries the gradient of each sample's own loss to the output of
every module. A module's weight gradient for sample i is then a product of two things already in memory: the rows that
went in and the gradients that came back. Norms and dot products of such products need no weight-sized buffer.

    modules.py     which module holds which parameter, and what its contribution is made of
    queries.py     what is asked of a contribution: squared norm, dot with a direction, dot with anchor samples
    anchors.py     anchor gradients in factored form, and dense mean directions
    output_head.py the output head and the loss, in closed form over the supervised positions only
    experts.py     mixture-of-experts blocks
    engine.py      runs a batch, and checks itself against autograd
"""
