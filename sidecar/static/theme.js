// Before the first paint: the colours that were chosen here before. Without a choice the system's are used.
try {
  const chosen = localStorage.getItem("sidecar.theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch {
  // A browser that keeps nothing for this page.
}
