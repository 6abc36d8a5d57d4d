# %% [markdown] lang="en"
# # x
