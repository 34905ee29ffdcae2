# Trains a logistic regression on R's table of cars, and writes it into the folder of the first argument.
arguments <- commandArgs(trailingOnly = TRUE)
output <- if (length(arguments) >= 1) arguments[1] else "outputs/model"

# For data of your own, add an input to ultramarine.yaml and read it here, such as by read.csv.
model <- glm(am ~ wt + hp, data = mtcars, family = binomial())

# Printed NAME=VALUE words become metrics of the job.
accuracy <- mean((predict(model, type = "response") > 0.5) == (mtcars$am == 1))
cat(sprintf("accuracy=%.4f\n", accuracy))

dir.create(output, recursive = TRUE, showWarnings = FALSE)
saveRDS(model, file.path(output, "model.rds"))
