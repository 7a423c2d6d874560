// Loaded before the page is painted: dark or light, if the user chose one.
"use strict";
{
  let theme = null;
  try {
    theme = JSON.parse(localStorage.getItem("oxling.theme"));
  } catch {
    // Nothing is kept here: the system decides.
  }
  if (theme === "dark" || theme === "light") document.documentElement.dataset.theme = theme;
}
