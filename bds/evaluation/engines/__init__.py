"""What computes answers: vLLM, or transformers. Both speak the HTTP interface of OpenAI, and neither knows Ray.

A plan says which models share one engine. `vllm_app` and `transformers_app` make an ASGI application of a plan.
"""
