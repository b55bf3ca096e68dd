"""The whole job: from a directory of images and a teacher to a student beside its teacher."""
