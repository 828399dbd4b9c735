"""Photos that are drawn rather than downloaded, so that every stage can run without a network.

`petimages.draw_petimages` writes cats and dogs in the layout of the published data set; `petimages.draw_photo` draws
one photo of any kind, the classes that the shipped weights are pretrained on included.
"""
