"""Images and the container backend: what an image is made from, how it is built, pulled and published, and a lab run in it."""
