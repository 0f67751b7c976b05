"""Models of other libraries, one a family: are their scores exact, refused, slow or wrong?"""
