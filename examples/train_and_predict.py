"""Train on a folder with one folder per class, look at the number, predict a photo.

Usage: python examples/train_and_predict.py PHOTOS NEW_PHOTO
"""

import sys

import headstart as hs


def main(photos: str, new_photo: str) -> None:
    classifier = hs.ImageClassifier().fit(photos)
    print(classifier.evaluation)
    print(new_photo, "is", classifier.predict([new_photo])[0])


if __name__ == "__main__":
    main(*sys.argv[1:])
