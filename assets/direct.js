// The panel "Direct": a button tells the server what it is, and what the form around it holds. See pyramid/ui/direct.py.
element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-act]");
  if (!button || button.disabled) return;
  const {act, job, index} = button.dataset;
  if (act === "delete" && button.dataset.sure !== "yes") {  // asks once more, for four seconds
    const words = button.innerHTML;
    button.dataset.sure = "yes";
    button.textContent = "Delete?";
    setTimeout(() => { button.dataset.sure = ""; button.innerHTML = words; }, 4000);
    return;
  }
  const form = button.closest("form");
  const value = form ? Object.fromEntries(new FormData(form).entries()) : {};
  trigger("click", {act, job: job || "", index: Number(index || 0), value: JSON.stringify(value)});
});
element.addEventListener("submit", (event) => event.preventDefault());
element.addEventListener("input", (event) => {
  const output = event.target.closest("label")?.querySelector("output");
  if (output) output.textContent = event.target.value;
});
