# %%
from onepiece import lab
