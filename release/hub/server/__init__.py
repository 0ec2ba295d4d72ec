"""The rehearsal Hub: a loopback server that the Hub's own clients publish to and download from.

`app` routes requests to handlers, the handlers read and write `store`, and `run` binds the two ports.  The wire protocol is the
one that huggingface_hub, `hf` and `llama-server -hf` speak; large files live on a second port, as on the real Hub.
"""

LOCAL_TOKEN = "hf_" + "rehearsal" * 4  # opens a loopback server's own folder and nothing else
"""A token that looks like one, so that every client sends it; a Hub without `tokens.json` takes it for the user "local"."""
