"""What would training take on a mesh of devices, and does the compiled step agree?"""
