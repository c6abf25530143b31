"""The lab: real programs and raw clients that the tests stand on. It never imports the product.

Strategy: every part is a throwaway process or a client written from the standard's text, so that the product is
never measured with its own ruler. A part that is missing is an error, not a skip. Every wait has an end and says,
when that comes, what it had seen until then.
"""
