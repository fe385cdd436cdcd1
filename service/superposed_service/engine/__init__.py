"""The one owner of the store: queues, batches, the writer, poison detection."""
