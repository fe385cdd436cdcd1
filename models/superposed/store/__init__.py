"""The weight store: inference, losses, replay buffer, and the file it is saved in."""
