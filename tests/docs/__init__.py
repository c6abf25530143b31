"""The documentation, followed as it stands: every command, every configuration, every output shown.

Strategy: a page is a story. Its blocks are done one after the other in one empty directory, with the ports and the
broker of the text replaced by free ones; `page` reads blocks, `session` does them, `test_pages` says what each language
means. What a block needs beyond its text stands in a comment above it, which no reader sees:

    <!-- test: background, until "listening" -->   it goes on beside the blocks that follow
    <!-- test: until "event: paid" -->             it is ended once it has written that
    <!-- test: numbers may differ -->              in what a console shows
    <!-- test: instead: sidecar demo -->           what is run in its place: `make run` sets up what runs the tests
    <!-- test: not run: a registry is needed -->   the way out, with its reason
    <!-- test: quoted from docs/examples/… -->     it stands so in that file
    <!-- test: sh … -->                            commands that the reader is spared
    <!-- test: bring docs/examples/… -->           the files of that folder are in the directory from here on
    <!-- test: end everything -->                  what goes on beside is ended, as the text says

A block whose first line is a comment with nothing but a file's name is that file.
"""
