"""Who has which piece of a content, who asks whom for it, and what each thing is called. Pure."""
