"""Where a model looks: reading its attention exactly, without ever building a full map.

    text_attention   the function that computes a model's text attention, and how another is set
    capture          queries, keys and row log-sum-exp from the model's own forward pass
    signals          what attention says about each response token
    visual           attention on the image: masses, maps, sinks
    heads            which heads to listen to: local, global, image-reading, receiver
    gather           from captured layers to the signals of a batch of responses
    maps             grids of attention over the image, one per response, for rewards that read it
    response         which tokens of a response hold its answer and its thought
    prompt           attention of a prompt's last token, and redistributing it while answers are generated
    filter_scores    how well a map meets the target, for curation
    masking          images with part of their patches blanked

Axis letters: B responses, L layers, H heads, T response tokens, P prompt tokens, N = P + T, V image tokens,
S sentences, d head size.
"""
