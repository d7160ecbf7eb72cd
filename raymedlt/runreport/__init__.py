"""The page that every job leaves behind: one HTML file that needs no network.

page.py             what a page is made of, and `render`
figures.py          plotly figures as plain dictionaries, coloured by the page's own palette
forest.py           forest plots
pictures.py         images for a page
about.py            what every page says about its run: seconds, rejected rows, configuration
markdown.py         cards beside weights and data
words.py            wordings that pages and cards share
template.html.j2    the page; blocks.html.j2: one macro per kind of block
style.css           light, dark, narrow and printed
script.js.j2        drawing, switches, sorting and filtering
"""

from raymedlt.runreport.page import Page, render

__all__ = ["Page", "render"]
