"""The matcher: an encoder under an XMC head, fine-tuned on one level of the label tree after another."""
